SELECT * EXCLUDE (class_names)
FROM runs
WHERE run_id = $run_id
