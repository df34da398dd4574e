SELECT * EXCLUDE (run_id) FROM trust_verdicts WHERE run_id = $run_id
