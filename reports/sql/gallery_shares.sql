SELECT sample_index, class_index, dominant_energy_frac
FROM responses
WHERE run_id = $run_id AND list_contains($indices, sample_index) AND dominant_energy_frac > 0
QUALIFY row_number() OVER (PARTITION BY sample_index ORDER BY dominant_energy_frac DESC, class_index) <= 4
ORDER BY sample_index, dominant_energy_frac DESC, class_index
