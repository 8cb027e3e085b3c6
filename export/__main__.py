"""`python -m export`: see `export.saved_model.main`."""

from export.saved_model import main

main()
