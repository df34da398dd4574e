SELECT sample_index
FROM samples
WHERE is_correct AND dominant_class IS DISTINCT FROM label
ORDER BY dominant_energy_frac::DOUBLE - label_energy_frac::DOUBLE DESC NULLS FIRST, sample_index
