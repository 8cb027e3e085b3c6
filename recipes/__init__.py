"""One file a method: run it and it trains, evaluates and exports."""
