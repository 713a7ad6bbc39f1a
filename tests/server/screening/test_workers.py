"""No policy is applied before every worker has it."""

import threading
import time

from guard.follower import Follower, followers


def test_the_gateway_waits_for_the_workers(
    screening, activate, settings, target, wait_for, wait_for_generation
):
    """No request is decided under a policy that a worker does not have yet."""
    held = threading.Event()
    worker = Follower(settings.state_dir, "worker", lambda _active: held.wait(60))
    threading.Thread(target=worker.start, daemon=True).start()
    activate(1, target())
    time.sleep(0.3)

    assert screening.current() is None

    held.set()
    wait_for_generation(screening, 1)
    wait_for(lambda: all(f.generation == 1 for f in followers(settings.state_dir)))

    assert screening.unready() == []

    worker.stop()


def test_a_policy_that_is_taken_back_is_not_waited_for(
    screening, activate, settings, target, wait_for, wait_for_generation
):
    """A worker that never answers does not keep the gateway from what is in force instead."""
    held = threading.Event()

    def hang(active):
        if active.generation == 2:
            held.wait(60)

    worker = Follower(settings.state_dir, "worker", hang)
    activate(1)
    worker.start()
    wait_for_generation(screening, 1)
    activate(2, target())
    time.sleep(0.3)

    assert screening.current().generation == 1

    activate(3)
    wait_for(lambda: any(f.failed_generation == 2 for f in followers(settings.state_dir)))
    held.set()
    wait_for_generation(screening, 3)

    worker.stop()


def test_a_worker_that_cannot_load_keeps_the_old_policy(
    screening, put_in_force, activate, settings, target, wait_for
):
    """If a worker refuses a policy the gateway does not take it up either."""
    put_in_force(1)

    def refuse(active):
        if active.generation == 2:
            raise RuntimeError

    worker = Follower(settings.state_dir, "worker", refuse)
    worker.start()
    activate(2, target())
    wait_for(lambda: all(f.failed_generation == 2 for f in followers(settings.state_dir)))

    assert screening.current().generation == 1

    worker.stop()
