"""The Dagster side: partitions, assets, checks, sensors and jobs, each as thin as it can be."""
