"""From runs to tables, figures, claims and the archive."""
