"""From configuration to the plan of all that is to be made."""
