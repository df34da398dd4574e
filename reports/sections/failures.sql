SELECT sample_index, sample_id, stage, reason
FROM failures
WHERE run_id = $run_id
ORDER BY sample_index
LIMIT $count
