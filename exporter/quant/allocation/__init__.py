"""Mixed precision: which matrix is worth which type.

``fisher`` measures how much the outputs of each matrix matter to the model's predictions, ``losses`` what each type
would cost there, ``optimiser`` chooses under a budget.
"""
