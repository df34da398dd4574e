SELECT sample_index
FROM samples
WHERE dominant_class IS DISTINCT FROM prediction
ORDER BY prediction_energy_frac NULLS FIRST, sample_index
