"""Identifiers of people in a site's texts: found by patterns and check digits, counted, and masked by policy.

Detectors miss things: names without a title most of all. What they find and miss is measured on two test
sets, and a scan prints those figures beside its counts (``measured``). Only counts ever leave this package;
where a text has what is known to ``detection`` alone.

=================  ==================================================================================
``findings``       the kinds of identifiers, a span that was found, counts
``folding``        a text with its digits, dashes and spaces in plain form, and the way back to its offsets
``checksums``      Luhn, IBAN, NHS number, Chinese resident id
``patterns``       the detectors that ship
``places``         those of addresses, postcodes and names, which are heuristics
``site_patterns``  the site's own detectors, as regular expressions that run in linear time
``presidio``       Microsoft Presidio as one more detector, where it is installed
``detection``      all detectors over a text: find and mask
``screening``      what becomes of records: off, warn, mask or refuse
``gate``           the same as a site does it, with an event in its log
``gold``           synthetic notes of ours with known spans
``measured``       recall and precision of the shipped detectors
=================  ==================================================================================
"""
