from .description_page import write_description_page as write_description_page
from .dictionary.feature_explorer import FeatureExplorer as FeatureExplorer
from .dictionary.run import explore_features as explore_features
from .explorer.explorer import Explorer as Explorer
from .explorer.run import explore as explore
from .graph.graph_explorer import GraphExplorer as GraphExplorer
from .graph.run import explore_graph as explore_graph
from .repair_page import write_repair_page as write_repair_page
