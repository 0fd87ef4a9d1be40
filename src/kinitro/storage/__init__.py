"""PostgreSQL: the task pool and everything money depends on. Rows never leave this package."""
