SELECT sample_index
FROM samples
WHERE run_id = $run_id
ORDER BY md5(concat(sample_index, ' ', $seed)), sample_index
LIMIT $count
