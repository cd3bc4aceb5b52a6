"""Real asynchronous training: a parameter server and workers as processes, recorded as a trace."""
