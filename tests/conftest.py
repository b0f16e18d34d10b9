"""What holds for every test; fixtures stand beside the tests that use them."""

from hypothesis import settings

settings.register_profile("steno", deadline=None)  # a shared machine's slow moment is no failure
settings.load_profile("steno")
