"""No models: Django tells an app of migrations only where this module is."""
