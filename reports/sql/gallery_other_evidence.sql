SELECT sample_index
FROM evidence_verdicts
WHERE run_id = $run_id AND is_correct AND is_for_another_class
ORDER BY dominant_energy_frac::DOUBLE - prediction_energy_frac::DOUBLE DESC NULLS LAST, sample_index
LIMIT $count
