"""Stories of consortia, played in one process: should these sites federate, and how?"""
