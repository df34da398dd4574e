SELECT * EXCLUDE (run_id) FROM input_images WHERE run_id = $run_id ORDER BY sample_index
