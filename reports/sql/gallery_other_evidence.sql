SELECT sample_index
FROM samples
WHERE run_id = $run_id AND is_correct AND dominant_class <> prediction
ORDER BY dominant_energy_frac::DOUBLE - prediction_energy_frac::DOUBLE DESC NULLS LAST, sample_index
LIMIT $count
