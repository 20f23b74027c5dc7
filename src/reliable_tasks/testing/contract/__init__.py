"""
What every store promises, as tests.

Check a store of your own::

    class TestMyStore(StoreContract):
        @pytest.fixture
        def store(self):
            return MyStore(...)

        @pytest.fixture
        def plant(self, store):
            def plant(key, state):  # overwrite the state of an existing record
                ...

            return plant

The tests use keys of their own, so the store need not be empty. They wait for
leases by sleeping a few milliseconds; a store with a clock that can be moved
overrides the fixture `elapse`.
"""

from __future__ import annotations

from reliable_tasks.testing.contract.claims import Claims
from reliable_tasks.testing.contract.crashes import Crashes
from reliable_tasks.testing.contract.jobs import Jobs
from reliable_tasks.testing.contract.leases import Leases
from reliable_tasks.testing.contract.limits import LimiterContract
from reliable_tasks.testing.contract.operators import Operators
from reliable_tasks.testing.contract.outcomes import Outcomes
from reliable_tasks.testing.contract.publishing import Publishing
from reliable_tasks.testing.contract.support import Elapse, OneKey, Plant
from reliable_tasks.testing.contract.turns import Turns
from reliable_tasks.testing.contract.words import Words

__all__ = ("Elapse", "LimiterContract", "OneKey", "Plant", "StoreContract")


class StoreContract(Claims, Crashes, Jobs, Leases, Outcomes, Words, Publishing, Turns, Operators):
    """
    What every store promises.

    A subclass provides the fixtures `store`, a new `Store` that may share its
    records with others, and `plant`; if time can be moved, also `elapse`.
    """
