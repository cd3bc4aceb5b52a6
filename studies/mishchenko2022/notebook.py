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
# # mishchenko2022: does one slow worker spoil asynchronous SGD?
#
# *Asynchronous SGD beats minibatch SGD under arbitrary delays*: earlier theory had the longest
# delay τ in its rates, which a single slow worker makes as large as the number of updates. The new
# rates have the number of workers M in its place. This notebook walks through the experiment of
# the talk: 40 workers and least squares. It reads what the pipeline has made; set the environment
# variable `STALEGRAD_PRESET` to look at another size.

# %%
from stalegrad.analysis.claims import judge
from stalegrad.planning.studies import study_module
from stalegrad.report.notebooks import as_far_as_made, open_results, show

results = open_results("studies/mishchenko2022")
tables, figures = (study_module(results.home, name) for name in ("tables", "figures"))

# %% [markdown]
# ## Gradients for the same money
# Minibatch SGD waits for the slowest worker in every round: M / s_max gradients a second, where
# worker m needs s_m seconds for one. Asynchronous SGD waits for nobody: Σ 1 / s_m. The price is
# delay, τ ≈ Σ s_max / s_m, for the same reason. Formulas beside what was counted, where the
# slowest worker is slowest:

# %%
with as_far_as_made():
    budget = tables.budget(results).frame.drop(columns="workers")
    show(budget[budget["slowest"] == budget["slowest"].max()])

# %%
with as_far_as_made():
    show(figures.budget(results))

# %% [markdown]
# ## A step size for each
# Each method gets the best step of a grid, because the answer to 'which is faster' depends on it.
# The chosen step is filled; steps that are not drawn diverge.

# %%
with as_far_as_made():
    show(figures.steps(results))

# %% [markdown]
# ## The experiment
# The error against gradients, against simulated time, and how late the gradients were. Which
# method is ahead for the same number of gradients, and which for the same number of seconds?

# %%
with as_far_as_made():
    show(figures.experiment(results))

# %%
with as_far_as_made():
    show(tables.experiment(results).frame)

# %% [markdown]
# ## M, not τ
# The same problem while one of 16 workers slows down more and more: the longest delay grows a
# hundredfold and more. If it ruled, the error would follow it.

# %%
with as_far_as_made():
    show(figures.slowing(results))

# %% [markdown]
# ## Why it works: virtual iterates
# Imagine each gradient applied the moment its computation starts. These virtual iterates have no
# delay, and are never further from the real ones than the gradients that are being computed, of
# which there are at most M, however late they are.

# %%
with as_far_as_made():
    show(figures.virtual(results))

# %% [markdown]
# ## Did the paper's claims hold?

# %%
show(judge(results)[["claim", "verdict", "value", "threshold", "reason"]])
