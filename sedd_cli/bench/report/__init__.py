"""One report of everything that matters on a machine, within a given time: `sedd bench report`."""
