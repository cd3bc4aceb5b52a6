"""Files, messages, data sets and compiled loops, which all other packages use."""
