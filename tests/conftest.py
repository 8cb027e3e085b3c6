import gc

import recipes  # noqa: F401, sets its environment before TensorFlow is imported


def pytest_collection_finish(session):
    """Collects garbage less often: graphs make much that lives.

    What is imported by now stays to the end, so it need not be looked through
    again. It takes 7 % of the time off the tests of models.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
