SELECT sample_index FROM samples WHERE run_id = $run_id
