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
# # jain2018: where does delayed SGD stop learning?
#
# This walks through Figure 2 of *An analysis of the delayed gradients problem in asynchronous
# SGD*: how far the learning rate can go before training collapses, and what a constant delay does
# to that edge. It reads what the pipeline has made; set the environment variable
# `STALEGRAD_PRESET` to look at another size.

# %%
from stalegrad.analysis.claims import judge
from stalegrad.analysis.results import over_seeds
from stalegrad.planning.studies import study_module
from stalegrad.report.notebooks import as_far_as_made, open_results, show

results = open_results("studies/jain2018")
tables, figures = (study_module(results.home, name) for name in ("tables", "figures"))

# %% [markdown]
# ## The runs
# One row a run: the cell's columns by name, then how it ended.

# %%
with as_far_as_made():
    runs = results.grid("fig2")
    columns = ["delay", "batch_size", "lr", "seed", "final_test_accuracy", "diverged", "updates"]
    show(runs[columns].head())

# %% [markdown]
# ## Figure 2
# Accuracy rises with the rate, then drops within half a decade; with more delay the drop comes at
# a smaller rate.

# %%
with as_far_as_made():
    show(figures.fig2(results))

# %% [markdown]
# ## Beside the published values
# Hatched cells are unreadable in the scan.

# %%
with as_far_as_made():
    show(figures.fig2_difference(results))

# %%
with as_far_as_made():
    show(tables.fig2_agreement(results).frame)

# %% [markdown]
# ## The edge
# The largest rate that still trains, at each delay and batch size.

# %%
with as_far_as_made():
    cells = over_seeds(results.grid("fig2"), ["delay", "batch_size", "lr"])
    for batch, here in cells.groupby("batch_size"):
        print(f"batch size {batch}:", tables.largest_trained_rate(here, "mean").to_dict())

# %% [markdown]
# ## Did the paper's claims hold?

# %%
show(judge(results)[["claim", "verdict", "value", "threshold", "reason"]])
