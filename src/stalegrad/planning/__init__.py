"""Configuration, studies, cells, and the plan of what the workflow makes."""
