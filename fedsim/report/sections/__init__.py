"""The sections of the report, one file each, in the order of `fedsim.report.html.ORDER`."""
