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
# # allawati2020: how stale is a gradient?
#
# *Gradient delay analysis in asynchronous distributed optimization* answers with a formula. n
# workers compute gradients, each in a random time of mean µ, and send them to a master, half of
# the communication time T_c each way; every K gradients make an update. Theorem 2: in the limit,
# the mean staleness of a gradient is (n / K) · (T_c + µ) / µ updates, whatever the distribution of
# compute times.
#
# This notebook holds the formula against simulated clusters (Figures 1 and 2 of the paper), and
# then looks at what staleness costs (Figure 3). It reads what the pipeline has made; set the
# environment variable `STALEGRAD_PRESET` to look at another size.

# %%
from stalegrad.analysis.claims import judge
from stalegrad.planning.studies import study_module
from stalegrad.report.notebooks import as_far_as_made, open_results, show
from stalegrad.staleness import renewal

results = open_results("studies/allawati2020")
tables, figures = (study_module(results.home, name) for name in ("tables", "figures"))

# %% [markdown]
# ## The formula
# A longer way to the master, or more workers, means more updates between reading the weights and
# arriving. More gradients to an update mean fewer updates to be late by.

# %%
for workers, per_update, communication in ((10, 1, 0.0), (10, 1, 1.0), (20, 1, 1.0), (20, 10, 1.0)):
    staleness = renewal.expected_staleness(workers, per_update, communication, 1.0)
    print(
        f"n = {workers}, K = {per_update}, T_c = {communication:g}, mu = 1: {staleness:g} updates"
    )

# %% [markdown]
# ## A cluster, arrival by arrival
# Each worker computes, sends, and starts the next at once from the newest weights it has. Nobody
# waits, neither for the master nor for another, so that arrival times are sums of random numbers,
# and no gradient is needed to know how stale each is.

# %%
with as_far_as_made():
    show(figures.timeline(results))

# %% [markdown]
# ## Figure 1: the limit against the number of workers
# Is a gradient's own update one of those that it is late by? Counted just before that update the
# simulation lies below the theorem, counted just after it lies above.

# %%
with as_far_as_made():
    show(figures.fig1(results))

# %%
with as_far_as_made():
    show(tables.theory_vs_simulation(results).frame.filter(regex="workers|theorem|mean_[a-z]+$"))

# %% [markdown]
# ## Two ways to count
# jain2018 counts N − 1 where this paper has n: that is the gradient's own update, and nothing
# else. With communication time the theorem lies between the two counts. What is missing is that a
# worker is no stranger to itself: it cannot send while it computes. `residual_exact` is what a
# closed form that sets the own worker apart differs from the theorem by.

# %%
with as_far_as_made():
    counting = tables.counting(results).frame.drop(columns="mean_before_error")
    show(counting.rename(columns={"minibatches_per_update": "K", "communication_time": "T_c"}))

# %% [markdown]
# ## Figure 2: how it gets there
# All workers start at the same weights, so that the first gradients are fresh.

# %%
with as_far_as_made():
    show(figures.fig2(results))

# %% [markdown]
# ## Figure 3: what staleness costs
# Two clusters of ten workers that update equally often, with ten samples each time. In Case 1 a
# worker sends the gradient of one sample, and ten of them make an update. In Case 2 it sends that
# of ten samples, takes ten times as long for it, and each is an update. So they differ in
# staleness alone, by a factor of ten. Compare them step size by step size, and at the best step of
# each.

# %%
with as_far_as_made():
    show(figures.fig3(results))

# %%
with as_far_as_made():
    show(tables.fig3(results).frame)

# %% [markdown]
# ## Did the paper's claims hold?

# %%
show(judge(results)[["claim", "verdict", "value", "threshold", "reason"]])
