SELECT sample_index
FROM evidence_verdicts
WHERE is_correct AND is_for_another_class
ORDER BY dominant_energy_frac::DOUBLE - label_energy_frac::DOUBLE DESC, sample_index
