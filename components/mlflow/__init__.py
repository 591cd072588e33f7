"""MLflow as the steps use it: client and runs, registry, store."""
