"""What other plugins do around a night."""

from typing import Any


class SleepHooks:
    """Base of Avalanche plugins that look at the model right before and after it sleeps.

    :class:`~continual_ep.plugins.SleepReplay` calls both methods on all plugins of a strategy that
    inherit from this class; a plugin of your own that changes the model after an experience may do so,
    too, by :func:`call_sleep_begins` and :func:`call_sleep_ends`. The names do not begin with ``before_``
    or ``after_``, because Avalanche warns of callbacks that it does not know.
    """

    def sleep_begins(self, strategy: Any, **kwargs: Any) -> None:
        """Called after training on an experience, before the weights change."""

    def sleep_ends(self, strategy: Any, **kwargs: Any) -> None:
        """Called when the weights have changed."""


def call_sleep_begins(strategy: Any) -> None:
    """Call :meth:`SleepHooks.sleep_begins` of all plugins of ``strategy``."""
    for plugin in list(strategy.plugins):
        if isinstance(plugin, SleepHooks):
            plugin.sleep_begins(strategy)


def call_sleep_ends(strategy: Any) -> None:
    """Call :meth:`SleepHooks.sleep_ends` of all plugins of ``strategy``."""
    for plugin in list(strategy.plugins):
        if isinstance(plugin, SleepHooks):
            plugin.sleep_ends(strategy)
