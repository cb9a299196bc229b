"""One attribution method a module, all behind `protocol.AttributionMethod`."""
