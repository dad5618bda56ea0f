"""Reading and writing what every part needs: whole files, folders, tables, JSON, progress, jobs."""
