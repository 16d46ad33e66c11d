"""Cures for what is drawn in the void while sampling."""
