SELECT sample_index
FROM samples
WHERE run_id = $run_id AND NOT is_correct
ORDER BY probability DESC NULLS LAST, sample_index
LIMIT $count
