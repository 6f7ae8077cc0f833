"""The routers of RouteLLM that rate models by Bradley-Terry: similarity-weighted ranking and matrix factorisation.

Both know many models, each with a tier and a rating (`rated_models`); `strengths` solves the weighted problem.
"""
