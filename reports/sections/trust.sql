SELECT * EXCLUDE (run_id) FROM trust WHERE run_id = $run_id
