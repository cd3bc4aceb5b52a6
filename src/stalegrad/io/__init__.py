"""Files, messages and data sets: what all the rest stands on."""
