SELECT failed_count / sample_count FROM runs
