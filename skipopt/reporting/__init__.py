"""Results as text, tables, figures and pages. Measures nothing itself."""
