"""The RecSys Challenge 2018 as an evaluation: continue playlists from a title, tracks, or both.

challenge = make_challenge(dataset, 1000)  # ten tasks; challenge.train lacks their playlists
recommender = ...                          # trained on challenge.train
titles = TitleIndex(recommender.user_columns["name"], recommender.seen)
lists = answer_playlists(recommender, challenge.playlists, titles)
scores = score_lists(challenge.playlists, lists, challenge.holdouts, challenge.artists)
"""

from lightgcn.challenge.answers import answer_playlists, neighbouring_tracks, popular_tracks
from lightgcn.challenge.files import (
    read_challenge_set,
    read_holdouts,
    read_submission,
    submission_problems,
    write_challenge_set,
    write_holdouts,
    write_submission,
)
from lightgcn.challenge.run import ChallengeResult, run_challenge
from lightgcn.challenge.scores import ChallengeScores, score_lists
from lightgcn.challenge.tasks import TASKS, Challenge, ChallengePlaylist, Task, make_challenge
from lightgcn.challenge.title_index import TitleIndex

__all__ = [
    "TASKS",
    "Challenge",
    "ChallengePlaylist",
    "ChallengeResult",
    "ChallengeScores",
    "Task",
    "TitleIndex",
    "answer_playlists",
    "make_challenge",
    "neighbouring_tracks",
    "popular_tracks",
    "read_challenge_set",
    "read_holdouts",
    "read_submission",
    "run_challenge",
    "score_lists",
    "submission_problems",
    "write_challenge_set",
    "write_holdouts",
    "write_submission",
]
