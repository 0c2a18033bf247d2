from .tower import TextTower as TextTower
