SELECT * EXCLUDE (run_id) FROM data_checks WHERE run_id = $run_id
