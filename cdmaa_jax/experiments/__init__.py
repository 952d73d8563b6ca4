"""The paper's tables and figures, measured again: photos in, tables with intervals out."""
