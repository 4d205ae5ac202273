"""Every fault there is. Each lifts itself: it returns when what it broke is back."""

from loadtests.torture.faults import losses, network, processes

FAULTS = (*processes.FAULTS, *network.FAULTS, *losses.FAULTS)
