"""hpcdag: many dependent tasks on clusters, also for programs written for Dask."""
