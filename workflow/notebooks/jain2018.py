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
# This walks through Figure 2 of *An analysis of the delayed gradients problem in asynchronous SGD*:
# how far the learning rate can go before training collapses, and what a constant delay does to
# that edge. It reads what the pipeline has made; change `preset` to look at another size.

# %%
import os
from pathlib import Path

from stalegrad.claims import judge
from stalegrad.figures import jain2018 as figures
from stalegrad.figures.style import style
from stalegrad.results import StudyResults, over_seeds
from stalegrad.tables import jain2018 as tables

preset = os.environ.get("STALEGRAD_PRESET", "quick")
folder = Path(os.environ.get("STALEGRAD_RESULTS", "results")) / preset
results = StudyResults("jain2018", preset, folder / "jain2018")

# %% [markdown]
# ## The runs
# One row a run: the cell's columns by name, then how it ended.

# %%
runs = results.grid("fig2")
runs[["delay", "batch_size", "lr", "seed", "final_test_accuracy", "diverged", "updates"]].head()

# %% [markdown]
# ## Figure 2
# Accuracy rises with the rate, then drops within half a decade; with more delay the drop comes at a
# smaller rate.

# %%
with style():
    figure = figures.fig2(results)
figure

# %% [markdown]
# ## Beside the published values
# Hatched cells are unreadable in the scan.

# %%
with style():
    figure = figures.fig2_difference(results)
figure

# %%
tables.fig2_agreement(results).frame

# %% [markdown]
# ## The edge
# The largest rate that still trains, at each delay and batch size.

# %%
cells = over_seeds(runs, ["delay", "batch_size", "lr"])
{
    f"batch {batch}": tables.largest_trained_rate(here, "mean").to_dict()
    for batch, here in cells.groupby("batch_size")
}

# %% [markdown]
# ## Did the paper's claims hold?

# %%
judge(results)[["claim", "verdict", "value", "threshold", "reason"]]
