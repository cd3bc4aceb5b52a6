# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # lamour2023: who finishes last?
#
# *Convergence and model performance analysis using asynchronous distributed SGD* trains LeNet-5 on
# Fashion-MNIST with two, five and ten workers around a parameter server. Its Table II says that
# data split by label costs accuracy, and that one slow worker costs more. This notebook walks
# through that table, and to what is behind it. It reads what the pipeline has made; set the
# environment variable `STALEGRAD_PRESET` to look at another size.

# %%
from stalegrad.analysis.claims import judge
from stalegrad.planning.studies import study_module
from stalegrad.report.notebooks import as_far_as_made, open_results, show

results = open_results("studies/lamour2023")
tables, figures = (study_module(results.home, name) for name in ("tables", "figures"))

# %% [markdown]
# ## The runs
# One row a run. `delayed` says who has the injected delay: all workers alike, or worker 1 twice
# that of the others.

# %%
with as_far_as_made():
    runs = tables.table2_runs(results)
    columns = ["workers", "mode", "partition", "delay_ms", "delayed_workers", "seed", "accuracy"]
    show(runs[[*columns, "mean_staleness", "simulated_seconds"]].head())

# %% [markdown]
# ## Table II
# Bars are our means, dots are seeds, lines the one run that the paper prints for each cell. Above,
# each worker has a random part of the data; below, some classes of its own. Compare the two: how
# far do cells lie apart in each, and the seeds of one cell?

# %%
with as_far_as_made():
    show(figures.table2(results))

# %% [markdown]
# ## Is it staleness?
# All processes of the authors share one machine. With ten workers it is saturated, and a delay of
# milliseconds hardly changes whose gradient comes when: staleness looks alike in the upper panels.
# With a machine for every worker, below, a slow worker is overtaken.

# %%
with as_far_as_made():
    show(figures.staleness(results))

# %% [markdown]
# ## It is who finishes last
# A worker passes over its own part so many times and stops. A slow one goes on alone, with its own
# classes only. What does the model still know of the others by then? Recall of the classes of
# worker 1 (in colour) and of all others (grey) over time.

# %%
with as_far_as_made():
    show(figures.recall(results))

# %% [markdown]
# The test: the same runs, where all workers stop together with the first one that is done.

# %%
with as_far_as_made():
    show(figures.stop(results))

# %% [markdown]
# ## The compensation that did nothing
# Delay compensation adds λ g² (w − w_bak) to a gradient g, where w_bak are the weights that it was
# computed at. In the authors' code the backup is no copy but the live weights, and their
# difference is zero. So runs with it equal runs without, to the last digit:

# %%
with as_far_as_made():
    apart = tables.aliased_equals_off(results)
    print(f"{len(apart)} runs with the aliased backup beside the same runs without compensation")
    show(apart.filter(like="difference").abs().max().rename("largest difference").to_frame())

# %% [markdown]
# And with a backup that is a copy:

# %%
with as_far_as_made():
    cells = tables.table4_cells(results)
    show(cells[["kind", "workers", "delay_ms", "compensation_lambda", "mean", "off"]])

# %% [markdown]
# ## Did the paper's claims hold?

# %%
show(judge(results)[["claim", "verdict", "value", "threshold", "reason"]])
