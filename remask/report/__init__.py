"""Reports: curves, tables, the masks falling, in one HTML file that needs nothing from outside."""
