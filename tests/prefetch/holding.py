"""A holder for the prefetcher's own tests: what a fetch returns is kept as it is, and always fits."""


class Objects:
    """Keeps objects; the handle of one is the object itself."""

    def __init__(self):
        self.aside = None

    def fits(self, _nbytes):
        return True

    def put(self, payload):
        return payload

    def put_aside(self, payload):
        self.aside = payload
        return payload

    def settle(self):
        return self.aside

    def free(self, _held):
        pass

    def compact(self):
        raise AssertionError("everything fits")

    def clear(self):
        self.aside = None
